"""Disks as they come from elsewhere: a distribution's cloud image, a machine that a person installed, exports.

None of them is made by the project's recipes. They are built from Debian's packages, as root, because file systems
that Linux alone can write are mounted for it.
"""

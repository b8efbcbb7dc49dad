"""A stand-in for vfkit on Linux: its command line and its REST interface, in front of QEMU.

The file names in comments are those of vfkit's sources (github.com/crc-org/vfkit, commit b2bc27e).
"""

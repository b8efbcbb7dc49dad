"""The switch of a LAN between guests."""

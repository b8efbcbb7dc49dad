"""From any disk to an image: look into the disk, make a login, boot it once, keep what that wrote as a layer."""

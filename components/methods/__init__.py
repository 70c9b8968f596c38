"""Every way to make a picture into a few vectors, Fwd2Bot and those it is compared with: one file each."""

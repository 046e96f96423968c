"""Images in space: masks, atlases, volumes, and other voxel grids."""

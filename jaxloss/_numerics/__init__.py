"""The mathematics that several families share. Nothing here knows of batches, masks or reductions."""

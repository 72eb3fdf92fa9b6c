"""What differs by machine, each in a room of its own: compilers in `cpu.py`, explicit meshes in `mesh.py`."""

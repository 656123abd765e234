"""A job on a cluster as text: the scripts that start it with torchrun, mpirun and Slurm."""

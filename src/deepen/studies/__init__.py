"""The experiments that the lectures are built on, each as one command."""

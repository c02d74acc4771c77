"""What is measured of a run from its checkpoints, without the run knowing?"""

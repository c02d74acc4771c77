"""What does the loss look like around a point, and what does a synthetic gradient make of it?"""

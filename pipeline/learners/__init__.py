"""What does a stage compute?"""

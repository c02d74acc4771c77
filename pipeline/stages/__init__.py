"""What does a stage do with a message, and when?"""

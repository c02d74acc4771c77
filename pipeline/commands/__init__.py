"""What do the commands do, and what does a person see?"""

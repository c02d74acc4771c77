"""What does a user write to have the structure change, and what is done then?"""

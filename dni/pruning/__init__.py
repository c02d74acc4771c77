"""What does a network need least, and how does it do without?"""

"""How is part of a network begun anew, or shaken?"""

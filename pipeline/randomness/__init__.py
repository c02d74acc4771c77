"""Which random numbers belong to which operation, and who may draw them now?"""

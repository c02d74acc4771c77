"""Which microbatches enter the network?"""

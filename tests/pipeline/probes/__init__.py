"""Is what probes find true, and is the run left alone?"""

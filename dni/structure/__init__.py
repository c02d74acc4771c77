"""How does a network change its structure while it trains?"""

"""`vqtrt doctor` and `vqtrt info`: what is here, and does it work?"""

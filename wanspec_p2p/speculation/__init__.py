"""The algorithm: which token comes next, which drafts are verified, what each side says to the other.

Pure: no event loop, no socket, no clock, no global random numbers, no torch. Everything here is a function of its
arguments, so the tests, the simulator and the services run the same code.
"""

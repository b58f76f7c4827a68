"""The target service: the big model, its sessions, and the drafters it takes tokens from."""

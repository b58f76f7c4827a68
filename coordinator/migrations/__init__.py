"""The ledger's schema as numbered steps: `0001_….sql` takes an empty file to version 1, and so on. Never edit one."""

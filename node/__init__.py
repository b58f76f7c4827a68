"""The daemon of a machine that lends compute: it dials out, drafts token ids for the targets it holds a lease for, and
runs nothing it is sent.

- `settings`: what the operator decides; `limits`: when to lend; `hardware`: what the machine is; `logs`.
- `coordinator_events`, `coordinator_link`: the rules of the control link, pure; `control` carries them out.
- `lease_checks`: which leases are taken; `draft_links`, `draft_link`, `link_sessions`: the targets they lead to.
- `drafting`: many sessions on one model; `probes`: drafting without a target.
- `dialling`, `outbox`: reaching others and speaking to them.
- `service`: all of it without a process, for daemon and simulation; `daemon`: the process around it.
"""

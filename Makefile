# The two commands of the README. Everything else is cargo.

.PHONY: demo test

# Three nodes on this machine: load, a killed leader, its return, and an audit of every job.
demo:
	cargo build --release --quiet
	target/release/beaver-raft demo

test:
	cargo test --quiet

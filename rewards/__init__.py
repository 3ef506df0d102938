"""The built-in rewards: one plugin file per method, written only against `cib_rl.plugin`."""

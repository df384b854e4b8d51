"""A host, and the one way to it that is real: Fabric for the connection, our own channel to talk.

`ssh` is a host from its first packet to its last, `connect` the SSH connection beneath it: `target`
says where it is and how one gets in (`rules`: which keys it may show), `route` opens the way there,
or `gateways` or `proxy` do, `trust` judges the key it shows (`offer`: which one it is asked for),
and `login` proves who we are with what the `keyring` has, in a `conversation` as OpenSSH has it.
`sshconfig` asks the user's own ssh what it would do; `configfile` reads its files where there is
no ssh.
"""

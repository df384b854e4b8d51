"""A host, and the one way to it that is real: Fabric for the connection, our own channel to talk.

`ssh` is a host from its first packet to its last, `connect` the SSH connection beneath it: `target`
says where it is and how one gets in, `route` opens the way there, `trust` judges the key it shows,
and `login` proves who we are.
"""

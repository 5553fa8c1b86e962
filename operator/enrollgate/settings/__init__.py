"""Every setting of Enrollgate, checked before anything runs.

    operator   all settings, and how they are loaded
    worker     those that a launcher hands to its workers
    database, kubernetes   the groups `ENROLLGATE_DATABASE__*` and `ENROLLGATE_KUBERNETES__*`
    types, validators, sources   the forms of a value, its checks, and where it comes from

Nothing is imported here: a worker needs `settings.worker` alone.
"""

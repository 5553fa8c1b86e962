"""Every setting of Enrollgate, checked before anything runs.

    operator               all settings; a launcher's workers need only those of `worker`
    worker                 the settings that a launcher hands over to its workers
    database, kubernetes,  the groups `ENROLLGATE_DATABASE__*`, `ENROLLGATE_KUBERNETES__*` and
    web                    `ENROLLGATE_WEB__*`
    loading                reads the settings and reports everything that is wrong with them
    sources                where values come from beside the environment
    types, validators      how a value is written, and what it must satisfy

Any layer above may import this package; it imports the domain and `common`. This `__init__`
imports nothing, so that a worker loads `settings.worker` without the operator's settings.
"""

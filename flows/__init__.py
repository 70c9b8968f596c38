"""The stages and jobs, one file each: read params, call components, write outputs. The only place that knows Ray, DVC and paths.

Nothing here reports to anyone: the opt-outs below are set before Ray, DVC or Great Expectations is imported, and a value
that the user has set is left alone.
"""

import os

OPT_OUTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "GX_ANALYTICS_ENABLED": "False",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
for _name, _value in OPT_OUTS.items():
    os.environ.setdefault(_name, _value)

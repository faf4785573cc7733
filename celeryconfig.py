"""Celery's settings: values only. Each that differs from Celery's default says why."""

import ssl
from urllib.parse import urlsplit

from kombu import Exchange, Queue

from worker import sentinels, settings

_settings = settings.load()
_url = _settings.broker_url or _settings.redis_url

broker_url, _found = sentinels.for_kombu(_url.get_secret_value() if _url else "redis://127.0.0.1:6379/0")
# unless the URL says otherwise; kombu would take any certificate
broker_use_ssl = {
    "rediss": {"ssl_cert_reqs": ssl.CERT_REQUIRED},
    "amqps": {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": urlsplit(broker_url).hostname},
}.get(broker_url.partition(":")[0])
_redis = {
    # nothing is ever held longer: no ETA, no countdown, no long task
    "visibility_timeout": 150,
    "unacked_restore_interval": 5,
    # lanes live in the table; four lists a queue would only cost polls
    "priority_steps": [0],
    # without these a dead connection is waited for without end
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    **_found,
}
# our own messages are wake-ups, which may get lost: none waits for RabbitMQ's confirmation
broker_transport_options = {"write_timeout": 5} if broker_url.startswith("amqp") else _redis
# RabbitMQ only
broker_heartbeat = 20
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

task_default_queue = "intake"
# an exchange each: bound to a common one, every queue would get every message
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in ("intake", "deliver", "upkeep")]
task_routes = {
    "vcc.deliver": {"queue": "deliver"},
    "vcc.sweep": {"queue": "upkeep"},
    "vcc.prune": {"queue": "upkeep"},
}
task_create_missing_queues = False
accept_content = ["json"]
task_serializer = "json"
# the table is the result
task_ignore_result = True
result_backend = None

# a few messages in memory are a few that a death strands until the visibility timeout
worker_prefetch_multiplier = 1
# the rows are the truth, so what runs may as well finish
worker_cancel_long_running_tasks_on_connection_loss = False
worker_consumer = "worker.discreet:Consumer"
worker_send_task_events = True
worker_hijack_root_logger = False
# the pool is chosen on the command line (``vcc worker`` takes threads): set here, it would overrule --pool prefork
worker_concurrency = 6

# in memory: nothing to lose, nothing to lock, and any number of beats may run
beat_scheduler = "celery.beat:Scheduler"
beat_max_loop_interval = 1
# no endless pile of ticks after an outage; and none is too old for a worker whose clock is an hour off
_stale = {"expires": 7200}
beat_schedule = {
    # for jobs that no worker's own reader takes in; where one does, it has nothing to do, and so is asked seldom
    "intake": {"task": "vcc.intake", "schedule": 30.0, "options": _stale},
    "sweep": {"task": "vcc.sweep", "schedule": 2.0, "options": _stale},
    "prune": {"task": "vcc.prune", "schedule": 3600.0, "options": _stale},
}
timezone = "UTC"

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RoutingConfig(AppConfig):
    name = "routing"
    verbose_name = "Routing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from routing import checks  # noqa: F401 (registers them)
        from routing.decision import reading
        from routing.watch import follower_measures  # noqa: F401 (registers them)

        # A flush deletes rows, which a reading of what has changed can't see. It ends with this signal.
        post_migrate.connect(reading.forget, sender=self)

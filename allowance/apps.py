from django.apps import AppConfig
from django.db.backends.signals import connection_created

from allowance.plumbing.compiled import plan_once


class AllowanceConfig(AppConfig):
    name = "allowance"
    verbose_name = "Allowance ledger"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from allowance.follow import checks  # noqa: F401 (registers them)

        connection_created.connect(plan_once)

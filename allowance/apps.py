from django.apps import AppConfig


class AllowanceConfig(AppConfig):
    name = "allowance"
    verbose_name = "Allowance ledger"
    default_auto_field = "django.db.models.BigAutoField"

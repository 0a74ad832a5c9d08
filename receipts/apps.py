from django.apps import AppConfig


class ReceiptsConfig(AppConfig):
    name = "receipts"
    label = "router_receipts"  # ComputeHorde's own app has the label receipts; both must fit in one site and database
    verbose_name = "Receipts"
    default_auto_field = "django.db.models.BigAutoField"

"""Pages as whoever opens them sees them."""

from __future__ import annotations

from django.db import models
from django.test import Client
from django.urls import reverse


def shown(client: Client, view: str, *args: object, **query: object) -> str:
    """Return the text of one of the admin's pages, which must be there."""
    response = client.get(reverse(f"admin:{view}", args=args), {name: str(value) for name, value in query.items()})
    assert response.status_code == 200, view
    return response.content.decode()


def page(row: models.Model, view: str = "change") -> str:
    """Return the address of the admin's page about a row."""
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{view}", args=[row.pk])

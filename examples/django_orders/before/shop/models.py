"""What the shop keeps."""

from django.db import models


class Order(models.Model):
    name = models.TextField(unique=True)
    cents = models.IntegerField()

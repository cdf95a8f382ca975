"""What the shop keeps."""

from django.db import models


class Order(models.Model):
    customer = models.TextField()
    cents = models.IntegerField()


class Account(models.Model):
    customer = models.TextField(primary_key=True)
    owed = models.IntegerField(default=0)
    orders = models.TextField(default="")
    currency = models.TextField()

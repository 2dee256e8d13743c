"""A visit counter as in Django's documentation, with sessions in a Redis cache or in PostgreSQL.

Run `gunicorn counter:application`, with REDIS_URL, or with PGHOST, PGPORT and PGUSER, in the environment.
"""

import os
import pathlib

from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.shortcuts import render
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

if "REDIS_URL" in os.environ:
    store = {
        "CACHES": {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": os.environ["REDIS_URL"],
            }
        },
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
    }
else:
    # Keep connections open. By default Django opens one for each request.
    store = {
        "DATABASES": {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "CONN_MAX_AGE": None,
            }
        },
        "SESSION_ENGINE": "django.contrib.sessions.backends.db",
    }

settings.configure(
    **store,
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    ROOT_URLCONF="counter",
    SECRET_KEY="only for this benchmark",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [pathlib.Path(__file__).parent / "templates"],
        }
    ],
)

LINKS = [
    {"path": "/", "text": "Counter", "current": True},
    {"path": "/about", "text": "Your session", "current": False},
    {"path": "/reset", "text": "Reset", "current": False},
]


@csrf_exempt
def visit(request):
    visits = request.session.get("visits", 0) + 1
    request.session["visits"] = visits
    return render(request, "counter.html", {"title": "Counter", "links": LINKS, "visits": visits})


urlpatterns = [path("", visit)]
application = get_wsgi_application()

if __name__ == "__main__":
    # `python counter.py` creates the table.
    call_command("migrate", verbosity=0)

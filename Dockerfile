FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --no-create-home vcc

WORKDIR /app
COPY . .
# Editable, because the migrations lie beside the package. The servers of the extra "embedded" are not
# wanted here, only Flower.
RUN pip install -c constraints.txt -e '.[otel]' flower

USER vcc
CMD ["vcc", "worker"]

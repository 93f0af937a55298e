# psalign serve on a CPU; for a GPU choose an image with CUDA and leave out the index of CPU builds.
#   docker build -t psalign-serve .
#   docker run -p 8000:8000 -v psalign:/data -e PSALIGN_SERVE_KEY=... -v ./adapter:/adapter:ro psalign-serve
FROM python:3.11-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir --constraint constraints.txt '.[serve]' \
    && useradd --create-home --uid 10001 psalign && mkdir /data && chown psalign /data

USER psalign
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/live')"
# exec form: SIGTERM reaches the service, which draws what it has taken in.
ENTRYPOINT ["psalign", "serve", "--host", "0.0.0.0", "--people", "/data/people.db", "--key-file", "/data/people.key"]
CMD ["--base", "mini", "--adapter", "/adapter"]

# A static binary on an empty image: no shell, no package manager.
ARG GO_VERSION=1.26
FROM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build VERSION=${VERSION}

FROM scratch
COPY --from=build /src/bin/tierctl /tierctl
COPY --from=build /src/LICENSE /LICENSE
ENTRYPOINT ["/tierctl"]
CMD ["--help"]

#!/usr/bin/env bash
# Builds the images of the four services and loads them into the local cluster, if there is one.
#
#   ./build-images.sh                  compile inside the image
#   ./build-images.sh --binaries DIR   pack programs that were built outside, with the same last stage
set -euo pipefail
cd "$(dirname "$0")"

services=(external synchronizer writer internal)
tag=${CHAT_SYNC_IMAGE_TAG:-dev}
arguments=()

case ${1-} in
  "") ;;
  --binaries)
    [[ -d ${2-} ]] || { echo "build-images.sh: --binaries needs a folder of programs" >&2; exit 2; }
    folder=$(cd "$2" && pwd)
    trap 'rm -rf bin' EXIT
    rm -rf bin && mkdir bin
    for service in "${services[@]}"; do cp "$folder/$service" bin/; done
    arguments=(--build-arg BINARIES=outside)
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

docker=docker
# A client that cannot build with BuildKit is of no use here; Debian's own can.
if ! docker buildx version >/dev/null 2>&1 && [[ -x /usr/bin/docker ]]; then docker=/usr/bin/docker; fi

images=()
for service in "${services[@]}"; do
  echo "building chat-sync/$service:$tag"
  DOCKER_BUILDKIT=1 "$docker" build --quiet "${arguments[@]}" --build-arg "SERVICE=$service" -t "chat-sync/$service:$tag" . >/dev/null
  images+=("chat-sync/$service:$tag")
done

if command -v microk8s >/dev/null; then
  "$docker" save "${images[@]}" | microk8s ctr image import - >/dev/null
  echo "loaded into MicroK8s: ${images[*]}"
elif command -v kind >/dev/null && [[ -n $(kind get clusters 2>/dev/null) ]]; then
  kind load docker-image "${images[@]}"
  echo "loaded into kind: ${images[*]}"
elif command -v minikube >/dev/null && minikube status >/dev/null 2>&1; then
  for image in "${images[@]}"; do minikube image load "$image"; done
  echo "loaded into minikube: ${images[*]}"
else
  echo "built: ${images[*]}; no MicroK8s, kind or minikube here to load them into"
fi

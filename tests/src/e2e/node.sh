# A node of the end-to-end cluster: the first process of its network, mount and process namespaces. When it ends, all
# that runs on the node ends with it, containers included.
#
# Given in the environment: NODE (folder of this node), PROGRAMS (folder of containerd's programs), KUBELET (program),
# IMAGES (archive), GROUP (control group of this node, from the root of each hierarchy), and KUBELET_FLAGS.
set -eu

# Children of this process inherit its control group of version 2, by which svclb knows the node's own processes.
echo 0 > "/sys/fs/cgroup/unified/$GROUP/cgroup.procs"

mount --make-rprivate /
mount -t proc proc /proc
# kubelet sets these, which are the whole machine's. Here it sets copies.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    copy="$NODE/$(echo "$name" | tr / -)"
    cat "/proc/sys/$name" > "$copy"
    mount --bind "$copy" "/proc/sys/$name"
done
# A new sysfs shows the devices of this network namespace; the control groups are put back into it.
mkdir -p "$NODE/cgroup"
mount --rbind /sys/fs/cgroup "$NODE/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$NODE/cgroup" /sys/fs/cgroup
umount -R "$NODE/cgroup"
mount --bind "/sys/fs/cgroup/unified/$GROUP" /sys/fs/cgroup/unified
mount -t bpf bpf /sys/fs/bpf
for folder in /run /var/lib /var/log; do
    mount -t tmpfs tmpfs "$folder"
done
# A name of both families, whatever this machine calls so.
printf '127.0.0.1 localhost\n::1 localhost\n' > "$NODE/hosts"
mount --bind "$NODE/hosts" /etc/hosts
mkdir -p /run/netns /run/lock /var/lib/kubelet /var/log/pods /var/log/containers
# Volumes that kubelet mounts show up in containers that run.
mount --make-rshared /

"$PROGRAMS/containerd" --config "$NODE/containerd.toml" > "$NODE/containerd.log" 2>&1 &
ctr() {
    "$PROGRAMS/ctr" --address /run/containerd/containerd.sock --namespace k8s.io "$@"
}
for _ in $(seq 300); do
    ctr version > /dev/null 2>&1 && break
    sleep 0.1
done
ctr images import --platform linux/amd64 "$IMAGES" > /dev/null

# The flags are words without spaces.
# shellcheck disable=SC2086
"$KUBELET" $KUBELET_FLAGS > "$NODE/kubelet.log" 2>&1 &
# The first of the two that ends takes the node along. Meanwhile the shell collects what containers leave behind.
wait -n
echo "containerd or kubelet has ended: see $NODE" >&2
exit 1

//! Controllers whose pods only real nodes can show: one pod on every node; numbered pods with names and claims.

use std::path::Path;

use crate::tools::{apply, kubectl};

const MANIFEST: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers: [{name: c, image: 'mainstay.local/busybox:1', command: [sleep, '100000']}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: one}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: disk
  hostPath: {path: /var/lib/disk-one, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: two}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: disk
  hostPath: {path: /var/lib/disk-two, type: DirectoryOrCreate}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: mainstay.local/busybox:1
        command: [sh, -c, 'touch /data/$HOSTNAME; exec sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: disk, resources: {requests: {storage: 1Gi}}}
";

/// Applies both to a cluster of real nodes and looks at them from outside and from within.
pub fn daemons_and_numbered_pods_run(demo: &Path, folder: &Path) {
    apply(demo, folder, MANIFEST);
    kubectl(demo, &["rollout", "status", "daemonset/agent", "--timeout=90s"]);
    let nodes = kubectl(demo, &["get", "nodes", "-o", "name"]).lines().count();
    let agents = kubectl(
        demo,
        &[
            "get",
            "daemonset",
            "agent",
            "-o",
            "jsonpath={.status.numberAvailable}",
        ],
    );
    assert_eq!(agents, nodes.to_string());
    kubectl(demo, &["rollout", "status", "statefulset/db", "--timeout=90s"]);
    let phases = kubectl(
        demo,
        &[
            "get",
            "persistentvolumeclaims",
            "data-db-0",
            "data-db-1",
            "-o",
            "jsonpath={.items[*].status.phase}",
        ],
    );
    assert_eq!(phases, "Bound Bound");
    let kept = kubectl(demo, &["exec", "db-0", "--", "ls", "/data"]);
    assert!(kept.contains("db-0"), "{kept}");
    let peer = kubectl(
        demo,
        &[
            "exec",
            "db-0",
            "--",
            "nslookup",
            "db-1.db.default.svc.cluster.local",
        ],
    );
    let address = kubectl(demo, &["get", "pod", "db-1", "-o", "jsonpath={.status.podIP}"]);
    assert!(peer.contains(&address), "{peer}");
}

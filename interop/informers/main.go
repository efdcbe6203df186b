// Command informers watches the ConfigMaps of a namespace with a shared informer and prints one line per event:
// what happened, the name, the old and the new resourceVersion, and the value under "n".
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the server")
	namespace := flag.String("namespace", "default", "what to watch")
	contentType := flag.String("content-type", "application/json", "what to ask for")
	flag.Parse()
	if err := run(*kubeconfig, *namespace, *contentType); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kubeconfig, namespace, contentType string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = contentType
	config.AcceptContentTypes = contentType
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	if _, err := informer.AddEventHandler(handlers()); err != nil {
		return err
	}
	stop := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() { <-signals; close(stop) }()
	factory.Start(stop)
	if cache.WaitForCacheSync(stop, informer.HasSynced) {
		fmt.Println("SYNCED")
	}
	<-stop
	return nil
}

func handlers() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			made := object.(*corev1.ConfigMap)
			fmt.Println("ADD", made.Name, "-", made.ResourceVersion, made.Data["n"])
		},
		UpdateFunc: func(before, after any) {
			old, changed := before.(*corev1.ConfigMap), after.(*corev1.ConfigMap)
			fmt.Println("UPDATE", changed.Name, old.ResourceVersion, changed.ResourceVersion, changed.Data["n"])
		},
		DeleteFunc: func(object any) {
			if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = last.Obj
			}
			gone := object.(*corev1.ConfigMap)
			fmt.Println("DELETE", gone.Name, "-", gone.ResourceVersion, gone.Data["n"])
		},
	}
}

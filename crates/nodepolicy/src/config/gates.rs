//! `featureGates`: the names that Kubernetes 1.36 knows, their defaults, and which of them switch something here.

use std::collections::BTreeMap;

/// On unless switched off.
const ON: &str = "
    APIResponseCompression APIServerIdentity AllowParsingUserUIDFromCertAuth AllowServiceExternalIPs
    AuthorizePodWebsocketUpgradeCreatePermission CPUManagerPolicyBetaOptions CRDObservedGenerationTracking
    ClearingNominatedNodeNameAfterBinding ComponentFlagz ComponentStatusz ConstrainedImpersonation
    ContainerCheckpoint ContainerRestartRules CustomResourceFieldSelectors DRAConsumableCapacity
    DRADeviceBindingConditions DRADeviceTaints DRAExtendedResource DRAPartitionableDevices DRAPrioritizedList
    DRAResourceClaimDeviceStatus DRAResourceClaimGranularStatusAuthorization DRASchedulerFilterTimeout
    DeclarativeValidationBeta DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency
    DisableCPUQuotaWithExclusiveCPUs EnvFiles ExtendWebSocketsToKubelet GracefulNodeShutdown
    GracefulNodeShutdownBasedOnPodPriority HPAConfigurableTolerance HostnameOverride
    InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScalingInitContainers KubeletCrashLoopBackOffMax
    KubeletEnsureSecretPulledImages KubeletPodResourcesListUseActivePods KubeletSeparateDiskGC
    KubeletServiceAccountTokenForCredentialProviders ListFromCacheSnapshot MatchLabelKeysInPodTopologySpread
    MatchLabelKeysInPodTopologySpreadSelectorMerge MutablePodResourcesForSuspendedJobs
    MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NodeDeclaredFeatures
    NominatedNodeNameForExpectation OpenAPIEnums OpportunisticBatching PLEGOnDemandRelist PodDeletionCost
    PodLevelResources PodReadyToStartContainersCondition PodTopologyLabelsAdmission PortForwardWebsockets
    PreventStaticPodAPIReferences RelaxedServiceNameValidation ReloadKubeletClientCAFile
    ReloadKubeletServerCertificateFile RemoteRequestHeaderUID ResourceHealthStatus ResourceHealthStatusMessage
    RestartAllContainersOnContainerExits RetryGenerateName RotateKubeletServerCertificate SchedulerAsyncPreemption
    SchedulerPopFromBackoffQ ServiceAccountNodeAudienceRestriction ServiceCIDRStatusFieldWiping SidecarContainers
    SizeBasedListCostEstimate StaleControllerConsistencyDaemonSet StaleControllerConsistencyJob
    StaleControllerConsistencyReplicaSet StaleControllerConsistencyStatefulSet StorageNamespaceIndex
    StorageVersionHash StrictIPCIDRValidation StructuredAuthenticationConfigurationEgressSelector
    StructuredAuthenticationConfigurationJWKSMetrics TokenRequestServiceAccountUIDValidation
    TopologyManagerPolicyBetaOptions TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation
    UnknownVersionInteroperabilityProxy WatchCacheInitializationPostStartHook WindowsGracefulNodeShutdown";

/// Off unless switched on.
const OFF: &str = "
    APIServingWithRoutine AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests
    AllowUnsafeMalformedObjectDeletion CBORServingAndStorage CPUManagerPolicyAlphaOptions CRIListStreaming
    CSIVolumeHealth ChangeContainerStatusOnKubeletRestart CloudControllerManagerWatchBasedRoutesReconciliation
    CloudControllerManagerWebhook ClusterTrustBundle ClusterTrustBundleProjection ConcurrentWatchObjectDecode
    ContainerStopSignals CoordinatedLeaderElection CrossNamespaceVolumeDataSource DRADeviceTaintRules
    DRAListTypeAttributes DRANodeAllocatableResources DRAResourcePoolStatus DRAWorkloadResourceClaims
    DeclarativeValidationTakeover EventedPLEG GangScheduling GenericWorkload HPAScaleToZero ImageVolumeWithDigest
    InPlacePodVerticalScalingExclusiveCPUs InPlacePodVerticalScalingExclusiveMemory KMSv1 KubeletInUserNamespace
    KubeletRegistrationGetOnExistsOnly LocalStorageCapacityIsolationFSQuotaMonitoring
    ManifestBasedAdmissionControlConfig MaxUnavailableStatefulSet MemoryQoS MutablePVNodeAffinity
    PersistentVolumeClaimUnusedSinceTime PodAndContainerStatsFromCRI PodCertificateRequest PodLevelResourceManagers
    PodLogsQuerySplitStreams PodsAPI QOSReserved ReduceDefaultCrashLoopBackOffDecay RuntimeClassInImageCriApi
    SELinuxMount SchedulerAsyncAPICalls SeparateCacheWatchRPC ShardedListAndWatch StorageCapacityScoring
    StorageVersionAPI StorageVersionMigrator TaintTolerationComparisonOperators TopologyAwareWorkloadScheduling
    TopologyManagerPolicyAlphaOptions UserNamespacesHostNetworkSupport VolumeLimitScaling
    WindowsCPUAndMemoryAffinity WindowsHostNetwork WorkloadAwarePreemption WorkloadWithJob";

/// On for good.
const ALWAYS_ON: &str = "
    APIServerTracing AggregatedDiscoveryRemoveBetaType AnonymousAuthConfigurableEndpoints AnyVolumeDataSource
    AuthorizeNodeWithSelectors AuthorizeWithSelectors BtreeWatchCache CPUManagerPolicyOptions
    CRDValidationRatcheting CSIServiceAccountTokenSecrets ConsistentListFromCache DRAAdminAccess
    DeclarativeValidation DisableAllocatorDualWrite DisableNodeKubeProxyVersion ExecProbeTimeout
    ExternalServiceAccountTokenSigner ImageMaximumGCAge ImageVolume InPlacePodVerticalScaling
    JobBackoffLimitPerIndex JobManagedBy JobPodReplacementPolicy JobSuccessPolicy KubeletCgroupDriverFromCRI
    KubeletFineGrainedAuthz KubeletPSI KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletTracing
    LogarithmicScaleDown MatchLabelKeysInPodAffinity MultiCIDRServiceAllocator MutableCSINodeAllocatableCount
    NFTablesProxyMode NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap OrderedNamespaceDeletion
    PodLifecycleSleepAction PodLifecycleSleepActionAllowZero PodObservedGenerationTracking PodSchedulingReadiness
    PreferSameTrafficDistribution ProcMountType RecoverVolumeExpansionFailure RecursiveReadOnlyMounts
    RelaxedDNSSearchValidation RelaxedEnvironmentVariableValidation ResilientWatchCacheInitialization
    SELinuxChangePolicy SELinuxMountReadWriteOncePod SchedulerQueueingHints SeparateTaintEvictionController
    ServiceAccountTokenJTI ServiceAccountTokenNodeBinding ServiceAccountTokenNodeBindingValidation
    ServiceAccountTokenPodNodeInfo StreamingCollectionEncodingToJSON StreamingCollectionEncodingToProtobuf
    StructuredAuthenticationConfiguration SupplementalGroupsPolicy SystemdWatchdog TopologyManagerPolicyOptions
    UserNamespacesSupport VolumeAttributesClass WinDSR WinOverlay";

/// Off for good.
const ALWAYS_OFF: &str = "
    AllowOverwriteTerminationGracePeriodSeconds GitRepoVolumeDriver";

/// Gates that this agent follows. What the others switch it either has or has not.
const FOLLOWED: &[&str] = &[
    "ContainerCheckpoint",
    "DisableCPUQuotaWithExclusiveCPUs",
    "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority",
    "KubeletCrashLoopBackOffMax",
    "MemoryQoS",
    "RotateKubeletServerCertificate",
];
/// Names for many gates at once.
const GROUPS: &[&str] = &["AllAlpha", "AllBeta"];

fn lists(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|known| known == name)
}

/// A gate's default and whether it can be set otherwise; `None`: there is no such gate.
fn known(name: &str) -> Option<(bool, bool)> {
    let all = [
        (ON, (true, true)),
        (OFF, (false, true)),
        (ALWAYS_ON, (true, false)),
        (ALWAYS_OFF, (false, false)),
    ];
    all.into_iter()
        .find(|(list, _)| lists(list, name))
        .map(|(_, is)| is)
}

/// Whether a gate is on.
pub fn is_on(given: &BTreeMap<String, bool>, name: &str) -> bool {
    let default = known(name).is_some_and(|(on, _)| on);
    given.get(name).copied().unwrap_or(default)
}

/// Checks given gates; warnings name those that change nothing here.
///
/// # Errors
/// In the kubelet's words when one is set that cannot be.
pub fn check(given: &BTreeMap<String, bool>) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    for (name, wanted) in given {
        match known(name) {
            Some((default, false)) if *wanted != default => {
                return Err(format!(
                    "cannot set feature gate {name} to {wanted}, feature is locked to {default}"
                ));
            }
            Some((default, _)) if *wanted == default || FOLLOWED.contains(&name.as_str()) => {}
            None if !GROUPS.contains(&name.as_str()) => {
                warnings.push(format!(
                    "featureGates: unrecognized feature gate {name:?} is ignored"
                ));
            }
            _ => warnings.push(format!("featureGates: {name} switches nothing in this agent")),
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_followed_refused_or_named() {
        let given = |name: &str, on: bool| BTreeMap::from([(name.to_owned(), on)]);
        assert!(is_on(&BTreeMap::new(), "ContainerCheckpoint"));
        assert!(!is_on(
            &given("ContainerCheckpoint", false),
            "ContainerCheckpoint"
        ));
        let said = |name, on| check(&given(name, on));
        assert_eq!(said("ContainerCheckpoint", false), Ok(vec![]));
        assert_eq!(said("NodeSwap", true), Ok(vec![]));
        assert_eq!(
            said("NodeSwap", false),
            Err("cannot set feature gate NodeSwap to false, feature is locked to true".to_owned())
        );
        assert_eq!(
            said("EventedPLEG", true),
            Ok(vec![
                "featureGates: EventedPLEG switches nothing in this agent".to_owned()
            ])
        );
        assert_eq!(
            said("Nonsense", true),
            Ok(vec![
                "featureGates: unrecognized feature gate \"Nonsense\" is ignored".to_owned()
            ])
        );
    }
}

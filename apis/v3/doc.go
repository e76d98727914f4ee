// Package v3 is the objects that users write, in the wire form of projectcalico.org/v3 (contract §1, §3), with what the
// schema cannot say about them: Default and Validate. It knows nothing of enforcing them.
//
// The types are tolerant on purpose: ports and protocols are numbers or strings and nets are strings, so that no object that
// a schema let through can break the decoding of its kind (contract §1.12). ParsePort and ParseProtocol read them.
//
// +kubebuilder:object:generate=true
// +groupName=projectcalico.org
package v3

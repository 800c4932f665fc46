// Package images makes container images of static programs without a container
// engine.
//
// # The path of an image
//
// [Compile] builds the programs of a [Component] for one architecture,
// [Assemble] puts files into one layer and describes them ([Spec] to [Image]),
// [SBOM] reads from the programs what they were made of, and [WriteArchive]
// writes all of it as one tar that the runtimes and registries of today read: an
// OCI layout that is a docker-save archive too. [Release] does it all.
//
// # Same sources, same bytes
//
// Nothing of the machine or of the moment gets into an image: file times are
// [Spec].Date, owners are 0, names are sorted, and programs are compiled without
// paths and without the state of the working copy.
//
// # Not done here
//
// Pushing: crane, skopeo and ctr read the archives.
package images

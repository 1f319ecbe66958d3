//! Prints where a protoc lies that a crate has brought along, for the build of `etcd-client`.

fn main() {
    let path = protoc_bin_vendored::protoc_bin_path().expect("a protoc for this system");
    println!("{}", path.display());
}

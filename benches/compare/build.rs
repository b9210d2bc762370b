//! The client and the server of tonic's one method; its messages are written by hand, so that no `protoc` is needed.

fn main() {
    #[cfg(feature = "tonic")]
    {
        use tonic_build::manual::{Builder, Method, Service};
        let order = "crate::systems::tonic::Order";
        let method = Method::builder()
            .name("echo")
            .route_name("Echo")
            .input_type(order)
            .output_type(order)
            .codec_path("tonic_prost::ProstCodec")
            .build();
        let service = Service::builder().name("Echo").package("compare").method(method).build();
        Builder::new().compile(&[service]);
    }
}

//! Wire types of Flotilla and, behind a feature, its tonic services

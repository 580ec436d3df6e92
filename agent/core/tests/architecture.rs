//! ARCHITECTURE.md draws what the code says.

#[test]
fn the_drawing_of_the_states_is_the_table() {
    let text = include_str!("../../../ARCHITECTURE.md");
    let drawing = pgaa_core::state::mermaid();
    assert!(
        text.contains(&drawing),
        "replace the drawing of the states in ARCHITECTURE.md by:\n{drawing}"
    );
}
